"""The layouts in which public data sets come, read into one: an example has a query, passages that answer it and passages
that do not. Nothing here draws or writes."""
import collections, hashlib, os, re, unicodedata
from lines import parse

# instruction "": none; name: the data set's own identifier, else one made of the text; known: neither answers nor negatives
Passage = collections.namedtuple("Passage", "text instruction name")
Example = collections.namedtuple("Example", "name query positives negatives scores known", defaults=(None, ()))


def same(text):
    """Equal for texts that differ in case, blanks and compatible forms of characters (NFKC) only, as for mine-negs."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def digest(*parts):
    """16 hex digits: the same text has the same name everywhere."""
    return hashlib.blake2b("\0".join(map(same, parts)).encode(), digest_size=8).hexdigest()


def text_of(value, what):
    if not isinstance(value, str):
        raise ValueError(f"'{what}' is not a text")
    if not value.strip():
        raise ValueError(f"'{what}' is empty")
    return value.strip()


def number_of(value, what):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"'{what}' is not a number")
    return value


def name_of(record, *keys):
    """The first identifier that is there, "" for none."""
    for key in keys:
        value = record.get(key)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value):
            return str(value)
    return ""


def first(record, *keys):
    """(key, value) of the first member that is there and not null."""
    return next(((k, record[k]) for k in keys if record.get(k) is not None), (keys[0], None))


def listed(value):
    return value if isinstance(value, list) else [value]


# ---- examples in themselves: GRIT, FlagEmbedding, tevatron, E5, MTEB's pairs and reranking

def titled(record):
    """A document's title, a blank and its text, as tok embeds it; may be empty."""
    parts = [record.get("title") or "", record.get("text") or ""]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("'title' or 'text' is not a text")
    return " ".join(filter(None, map(str.strip, parts)))


def passage(value, what):
    """A string, [instruction, text], or {docid, title, text}."""
    name = instruction = ""
    if isinstance(value, dict):
        value, name = titled(value), name_of(value, "docid", "id", "_id")
    elif isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        instruction, value = value
    elif not isinstance(value, str):
        raise ValueError(f"'{what}' is neither a text, [instruction, text] nor {{docid, title, text}}")
    return Passage(text_of(value, what), instruction, name or digest(value))


def passages(record, names_key, *keys):
    """Of the first key that is there, with the names that the row gives them."""
    what, value = first(record, *keys)
    found = [] if value is None else [passage(v, what) for v in listed(value)]
    names = record.get(names_key)
    if names is None:
        return found
    if not isinstance(names, list) or len(names) != len(found):
        raise ValueError(f"'{names_key}' is not a list of {len(found)} names")
    return [p._replace(name=text_of(name, names_key)) for p, name in zip(found, names)]


def scores_of(record, positives, negatives):
    """One score for each passage, positives first, or None."""
    what, values = first(record, "scores", "pos_scores", "score")
    if values is None:
        return None
    values = listed(values)
    if what == "pos_scores":
        values = values + listed(first(record, "neg_scores")[1] or [])
    if len(values) != positives + negatives:
        raise ValueError(f"'{what}': {len(values)} scores for {positives + negatives} texts")
    return [number_of(v, what) for v in values]


def example(line):
    record = parse(line)
    what, value = first(record, "query", "sentence1")
    query = passage(value, what)
    instruction = first(record, "instruction", "prompt")[1]
    if instruction is not None:
        query = query._replace(instruction=instruction if instruction == "" else text_of(instruction, "instruction"))
    positives = passages(record, "pos_ids", "positive", "pos", "sentence2", "positive_passages")
    negatives = passages(record, "neg_ids", "negative", "neg", "negative_passages")
    if not positives:
        raise ValueError("no 'positive' for the query")
    scores = scores_of(record, len(positives), len(negatives))
    return Example(name_of(record, "id", "_id", "query_id"), query, positives, negatives, scores)


# ---- preferences: {prompt, chosen, rejected}, UltraFeedback's, and {prompt, completion, label}

def turns(value, what):
    """A text of the user's, or a list of {role, content}, whose contents are texts."""
    if isinstance(value, str):
        return [{"role": "user", "content": text_of(value, what)}]
    if not isinstance(value, list) or not value:
        raise ValueError(f"'{what}' is neither a text nor a list of messages")
    roles = ("system", "user", "assistant")
    if not all(isinstance(t, dict) and t.get("role") in roles and isinstance(t.get("content"), str) for t in value):
        raise ValueError(f"'{what}' holds something else than {{role, content}}")
    return [{"role": t["role"], "content": t["content"]} for t in value]


def answer(prompt, value, what):
    """(turns before it, answer): a text behind the prompt, or messages that may repeat it. The answer may be empty."""
    if isinstance(value, str):
        before, text = prompt, value
    else:
        *before, last = turns(value, what)
        if last["role"] != "assistant":
            raise ValueError(f"'{what}' does not end with the assistant's turn")
        before, text = before or prompt, last["content"]
    if not before:
        raise ValueError(f"no 'prompt' for '{what}'")
    return before, text.strip()


def preference(line):
    """[(turns, answer, wanted)]: both of a pair, or the one that has a label."""
    record = parse(line)
    prompt = record.get("prompt")
    prompt = [] if prompt is None else turns(prompt, "prompt")
    if "label" not in record:
        return [(*answer(prompt, record.get(key), key), key == "chosen") for key in ("chosen", "rejected")]
    if record["label"] not in (True, False):
        raise ValueError("'label' is neither true nor false")
    return [(*answer(prompt, record.get("completion"), "completion"), bool(record["label"]))]


# ---- texts with labels: {text, label}, MTEB's {sentences [], labels []}, any fields of that kind

def label_of(value, what):
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return text_of(value, what).replace("_", " ")


def labelled(line, text_key, label_key):
    """[(text, its labels)] of one record. Parallel lists of texts and labels are as many records; one text may have a
    list of labels. Fields that are not named are looked for."""
    record = parse(line)
    text_key, texts = first(record, text_key) if text_key else first(record, "text", "sentences", "sentence")
    label_key, labels = first(record, label_key) if label_key else first(record, "label_text", "label", "labels")
    if not isinstance(texts, list):
        texts, labels = [texts], [labels]
    elif not isinstance(labels, list) or len(labels) != len(texts):
        raise ValueError(f"'{label_key}' is not a list of {len(texts)} labels, one for each text")
    found = [(text_of(t, text_key), [label_of(v, label_key) for v in listed(ls)]) for t, ls in zip(texts, labels)]
    if not all(labels for _, labels in found):
        raise ValueError(f"'{label_key}' is an empty list")
    return found


# ---- pairs with a score

def scored_pair(line):
    """(score, text, text) of {sentence1, sentence2, score}, or of score, text and text with tabs between."""
    if line.startswith("{"):
        record = parse(line)
        score = number_of(record.get("score"), "score")
        return score, text_of(record.get("sentence1"), "sentence1"), text_of(record.get("sentence2"), "sentence2")
    fields = line.split("\t")
    if len(fields) != 3:
        raise ValueError("not a score and two texts with tabs between")
    try:
        score = float(fields[0])
    except ValueError:
        raise ValueError(f"'{fields[0]}' is not a number") from None
    if not abs(score) < 1e9:
        raise ValueError(f"'{fields[0]}' is not a score")
    return score, text_of(fields[1], "sentence1"), text_of(fields[2], "sentence2")


# ---- BEIR: corpus.jsonl, queries.jsonl and judgments apart

def judgment(line):
    """(query, document, grade); the header line has no grade."""
    fields = line.split("\t")
    if len(fields) != 3:
        raise ValueError("not query, document and grade with tabs between")
    return fields[0], fields[1], int(fields[2]) if re.fullmatch("-?[0-9]{1,9}", fields[2]) else None


def judgments(reader, path):
    """[(number, query, document, grade)]"""
    found = []
    for _, number, (query, document, grade) in reader.records([path], judgment):
        if grade is not None:
            found.append((number, query, document, grade))
        elif number > 1:
            reader.bad(path, number, "the grade is no integer")
    return found


def named_texts(reader, path, wanted):
    """{identifier: text, which may be empty} of those records that are wanted."""
    def take(line):
        record = parse(line)
        name = name_of(record, "_id", "id")
        if not name:
            raise ValueError("no '_id'")
        return name, titled(record) if name in wanted else ""

    return {name: text for _, _, (name, text) in reader.records([path], take) if name in wanted}


def beir(reader, folder, split, least):
    """Examples of the queries that have an answer, in the order of the judgments; grades between 0 and `least`: known.
    An empty document is neither."""
    paths = [f"{folder}/qrels/{split}.tsv", f"{folder}/qrels.tsv"]
    path = next((p for p in paths if os.path.exists(p)), paths[0])
    found = judgments(reader, path)
    queries = named_texts(reader, f"{folder}/queries.jsonl", {q for _, q, _, _ in found})
    documents = named_texts(reader, f"{folder}/corpus.jsonl", {d for _, _, d, _ in found})
    queried = {}
    for number, query, document, grade in found:
        if query not in queries or document not in documents:
            reader.bad(path, number, f"no query '{query}'" if query not in queries else f"no document '{document}'")
            continue
        kind = "positive" if grade >= least else "negative" if grade <= 0 else "known"
        if documents[document]:
            queried.setdefault(query, {}).setdefault(kind, []).append(Passage(documents[document], "", document))
    for name, of in queried.items():
        if "positive" in of and queries[name]:
            query = Passage(queries[name], "", name)
            yield Example(name, query, of["positive"], of.get("negative", []), None, of.get("known", []))
