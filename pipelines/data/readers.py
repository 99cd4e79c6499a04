"""Readers of what Debian packages hold: package descriptions, dictd dictionaries, man pages, HTML and DocBook pages. Each
turns bytes or text into plain English text; none chooses, cleans or pairs."""
import gzip, re
from html.parser import HTMLParser
from prose import squeeze


# ---- package descriptions: stanzas of apt's lists, the texts (Translation-en) apart from the rest (Packages)

def read_stanzas(lines):
    """Dictionaries of those fields that are used; Description-en is the list of its lines, the synopsis first."""
    stanza, text = {}, None
    for line in lines:
        line = line.rstrip("\n")
        if not line:
            if stanza:
                yield stanza
            stanza, text = {}, None
        elif line[0] in " \t":
            if text is not None:
                text.append(line[1:])
        else:
            name, _, value = line.partition(": ")
            text = None
            if name == "Description-en":
                text = stanza[name] = [value]
            elif name in ("Package", "Source", "Section", "Description-md5"):
                stanza[name] = value
    if stanza:
        yield stanza


def description_paragraphs(lines):
    """Paragraphs of a description without its lists; a line of one dot parts paragraphs, a second blank keeps a line as
    it is."""
    paragraphs = [[]]
    for line in lines:
        if line == ".":
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    return [squeeze(" ".join(p)) for p in paragraphs
            if p and not any(re.match(r"\s|[-*+o] ", line) for line in p)]


# ---- dictionaries: NAME.index has lines "headword TAB offset TAB length" in base 64, NAME.dict.dz is gzip

DIGITS = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}


def number(digits):
    value = 0
    for digit in digits:
        value = value * 64 + DIGITS[digit]
    return value


def read_dictionary(index, dictionary):
    """(headword, body) for every entry of two files, each entry once: the headword as the entry itself spells it."""
    with gzip.open(dictionary, "rb") as f:
        data = f.read()
    seen = set()
    with open(index, encoding="utf-8", errors="replace") as f:
        for line in f:
            word, offset, length = line.rstrip("\n").split("\t")[:3]
            start = number(offset)
            if word.startswith("00-database") or word.startswith("00database") or start in seen:
                continue
            seen.add(start)
            entry = data[start:start + number(length)].decode("utf-8", errors="replace")
            first, _, body = entry.partition("\n")
            yield squeeze(first), body


SENSE = re.compile(r"^ +(?:(?:n|v|adj|adv) )?\d+: ", re.MULTILINE)


def wordnet_senses(headword, body):
    """(the words of a synonym set, its gloss without examples)"""
    for sense in SENSE.split("\n" + body)[1:]:
        sense = squeeze(sense)
        synonyms = re.search(r"\[syn: (.*?)\]", sense)
        words = re.findall(r"{(.*?)}", synonyms.group(1)) if synonyms else [headword]
        gloss = re.sub(r"\[(?:syn|ant|also): .*?\]", "", sense)
        yield ", ".join(words[:3]), squeeze(re.sub(r";? \"[^\"]*\"(?: - [^;\"]*)?", "", gloss)).strip("; ")


def plain_senses(headword, body):
    """FOLDOC, Jargon, elements: links in braces, subjects in angle brackets, pronunciation, part of speech, date. Lines
    before the first blank or indented one are other spellings."""
    body = re.sub(r"^(?:\S.*\n)+(?=\s*\n)", "", body)
    body = re.sub(r"^\s*/[^/\n]*/,?", "", body, count=1, flags=re.MULTILINE)
    body = re.sub(r"^\s*(?:Symbol|Atomic \w+):.*$", "", body, flags=re.MULTILINE)
    body = squeeze(re.sub(r"<[a-z][a-z, ]*>|\(\d{4}-\d\d-\d\d\)|\[[^]]*\]", " ", re.sub(r"[{}]", "", body)))
    yield headword.strip("*"), re.sub(r"^(?:(?:\d+|n|v|vt|vi|adj|adv|interj|prov|obs)\. |\([^)]*\) )*", "", body)


def gcide_senses(first, body):
    r"""Webster 1913: `Word \Pronunciation\, n. [origin] (Field) gloss --Author. [source] 2. gloss ...`"""
    headword = first.partition("\\")[0].strip(" ,")
    text = squeeze(re.sub(r"\\[^\\]*\\", "", f"{first} {body}", count=1)[len(headword):])
    for _ in range(2):  # brackets within brackets
        text = re.sub(r"\[[^][]*\]", "", text)
    text = re.sub(r"--[A-Z][^.]*\.|[{}]", "", text)
    for sense in re.split(r" \d+\. | \([a-z]\) ", text):
        sense = re.sub(r"^[\s,.;]*(?:\([^)]*\)[\s,;]*)?(?:(?:n|a|v|t|i|adv|pl|imp|p|pr|vb|prep)\.[\s,;&]*)*", "", squeeze(sense))
        field = re.match(r"\(([A-Z][^)]*)\)\s*", sense)
        yield headword, sense[field.end():] if field else sense


# ---- man pages

SIGNS = {"-": "-", "e": "\\", "&": "", "|": "", "^": "", "/": "", ",": "", "%": "", ":": "", "0": " ", " ": " ", "~": " ",
         "c": "", "p": "", "t": " ", "'": "'", "`": "`"}
NAMED = {"aq": "'", "cq": "'", "oq": "'", "lq": '"', "rq": '"', "dq": '"', "en": "-", "em": " - ", "hy": "-", "mi": "-",
         "bu": "", "co": "(c)", "rs": "\\", "ti": "~", "ha": "^", "+-": "+/-", "mu": "x", "<=": "<=", ">=": ">="}
ESCAPE = re.compile(r"""\\(?:
    f(?:\[[^]]*\]|\(..|.) | s[-+]?\d+ | \*(?:\[[^]]*\]|\(..|.) | [hvwlLkmMF]'[^']*' | m\[[^]]*\]
    | \((?P<two>..) | \[(?P<long>[^]]*)\] | (?P<one>.))""", re.VERBOSE)


def roff_text(line):
    """A line without its escapes: fonts, sizes, special characters."""
    def sign(match):
        name = match["two"] or match["long"]
        if name:
            return NAMED.get(name, "")
        return SIGNS.get(match["one"], "") if match["one"] else ""
    return ESCAPE.sub(sign, line)


def roff_arguments(text):
    return [a or b for a, b in re.findall(r'"((?:[^"]|"")*)"?|(\S+)', text)]


FONTS = {"B", "I", "R", "SM", "SB", "UL"}
ALTERNATING = {"BR", "RB", "IR", "RI", "BI", "IB", "CR"}
PARAGRAPH = {"PP", "P", "LP", "Pp", "sp", "br"}
# mdoc: macros whose arguments are read on, and the punctuation that sticks to the word before it
CLOSING = re.compile(r" +([.,;:)\]?!](?= |$))")
MDOC_CALLS = {"Nm", "Fl", "Ar", "Cm", "Op", "Pa", "Xr", "Dv", "Er", "Ev", "Fa", "Fn", "Ft", "Va", "Vt", "Li", "Ql", "Sq", "Dq", "Pq",
              "Em", "Sy", "Ic", "Tn", "Ns", "Ux", "Bx", "Fx", "Nx", "At", "Ad", "An", "Cd", "Ms", "No", "Po", "Pc", "Do", "Dc", "Qq", "Aq",
              "Brq", "Bq", "In", "Lb", "Lk", "Mt", "Sx"}


def mdoc_text(macro, arguments, name):
    """The words that a line of mdoc prints."""
    words, call = [], macro
    for argument in ["", *arguments]:
        if argument in MDOC_CALLS:
            call = argument
        elif argument:
            if call == "Xr" and argument.isalnum() and len(argument) == 1:
                words[-1:] = [f"{words[-1]}({argument})"] if words else []
            else:
                words.append("-" + argument if call == "Fl" and argument[0].isalnum() else argument)
        if call == "Nm" and not arguments and name:
            words.append(name)
    return CLOSING.sub(r"\1", " ".join(words))


def read_man(source):
    """Sections of a page: {"NAME": [paragraph, ...], "DESCRIPTION": ...}. Lists, tables, examples and anything indented
    end a section's prose, for what follows leans on it."""
    sections, prose, literal, name = {}, None, False, ""
    for line in source.splitlines():
        if line[:2] in ('.\\', "'\\") or line in (".", "'"):
            continue
        match = re.match(r"[.'][ \t]*([A-Za-z]\S?)(?:[ \t]+(.*))?$", line)
        if not match:
            if prose is not None and not literal and not line.startswith((".", "'")):
                text = roff_text(line)
                if not text.strip() or text[0] in " \t":
                    prose.append("")
                prose[-1] += " " + text.strip()
            continue
        macro, rest = match[1], re.sub(r'\s*\\".*$', "", match[2] or "")
        arguments = [roff_text(a) for a in roff_arguments(rest)]
        if macro in ("SH", "Sh"):
            prose = sections.setdefault(" ".join(arguments).upper(), [""])
            literal = False
        elif prose is None:
            continue
        elif macro in ("nf", "EX", "TS", "Bd", "RS", "TP", "IP", "HP", "Bl", "SS", "Ss", "It"):
            literal = True
        elif macro in PARAGRAPH:
            prose.append("")
        elif literal or macro in ("fi", "EE", "in", "ad", "hy", "na", "ne", "ie", "if", "el", "so", "ds", "nh", "nr", "ft", "El", "Ed"):
            continue
        elif macro in FONTS:
            prose[-1] += " " + " ".join(arguments)
        elif macro in ALTERNATING:
            prose[-1] += " " + "".join(arguments)
        elif macro == "Nd":
            prose[-1] += " - " + " ".join(arguments)
        elif macro in MDOC_CALLS:
            if macro == "Nm" and arguments and not name:
                name = arguments[0]
            prose[-1] += " " + mdoc_text(macro, arguments, name)
    return {title: [p for p in map(squeeze, paragraphs) if p] for title, paragraphs in sections.items()}


# ---- HTML and DocBook

class Page(HTMLParser):
    """Collects sections, [heading, [paragraph, ...]], and the title of the page. Code in lines stays, code in blocks,
    tables and navigation are left out."""
    HEADINGS = {"h1", "h2", "h3", "h4", "h5", "title"}
    PARAGRAPHS = {"p", "dd", "para", "blockquote"}
    LEFT_OUT = {"script", "style", "pre", "table", "nav", "header", "footer", "math", "svg", "programlisting", "screen", "dl",
                "ul", "ol", "itemizedlist", "variablelist", "orderedlist", "informaltable", "mjx-container", "sup", "bookinfo"}
    VOID = {"br", "hr", "img", "input", "link", "meta", "area", "base", "col", "wbr", "source"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.title, self.sections = "", [["", []]]
        self.text, self.skipped, self.in_head = None, [], False

    def handle_starttag(self, tag, attributes):
        if tag in self.VOID:
            if tag == "br" and self.text is not None:
                self.text.append(" ")
            return
        if tag == "head":
            self.in_head = True
        classes = dict(attributes).get("class") or ""
        if tag in self.LEFT_OUT or any(c in classes for c in ("toc", "navigation", "sidebar", "highlight", "headerlink")):
            self.skipped.append(tag)
        elif self.skipped:
            if tag == self.skipped[-1]:
                self.skipped.append(tag)
        elif tag in self.HEADINGS or tag in self.PARAGRAPHS:
            self.flush()
            self.kind, self.text = tag, []

    def handle_endtag(self, tag):
        if tag == "head":
            self.in_head = False
        if self.skipped:
            if tag == self.skipped[-1]:
                self.skipped.pop()
        elif tag in self.HEADINGS or tag in self.PARAGRAPHS or tag in ("div", "section", "body", "sect1", "sect2"):
            self.flush()

    def handle_data(self, data):
        if self.text is not None and not self.skipped:
            self.text.append(data)

    def flush(self):
        """Ends the heading or paragraph that is being read."""
        if self.text is None:
            return
        text = squeeze("".join(self.text)).replace("\u00b6", "").replace("\uf0c1", "")
        if self.kind == "title" and self.in_head:
            self.title = text
        elif self.kind in self.HEADINGS:
            self.sections.append([text, []])
        elif text:
            self.sections[-1][1].append(text)
        self.text = None


def read_html(source):
    """(page title, [[heading, [paragraph, ...]], ...])"""
    page = Page()
    page.feed(source)
    page.close()
    page.flush()
    return page.title, page.sections
