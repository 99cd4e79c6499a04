"""Writes the small tokenizers of this folder and what the tokenizers library makes of hard strings with them:
NAME.json (tokenizer.json), NAME.jsonl ({"text", "ids", "at": [start, end, ...] in bytes, "special": ids with specials}).
Needs the tokenizers library; the tests do not: they read what is here. Usage: make.py TEXTFILE"""
import json, random, sys
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers as N, pre_tokenizers as P, processors, trainers

rng = random.Random(1)
WORDS = "the of and to in is that for it as was I'm you'll they've we'd it's CAN'T don't Hello hello world token".split()
POOLS = ["abcdefgh", "ABCDEF", "0123456789", "      \t\n\r\u00a0\u3000\u2028", "'.,;:!?-_()[]{}<>|@#$%^&*+=/\\\"`~",
         "\u00e9\u00e8\u00f1\u00f6\u00df\u00e5\u00c6\u0152\u0130\u0131\u017fK", "\u0301\u0308", "\u4e2d\u6587\u5b57\u65e5\u672c\u304b\u30ca\ud55c\uad6d",
         "\U0001f600\U0001f44d\U0001f3fd\U0001f468\u200d\U0001f469\U0001f1e9\U0001f1ea", "\u0001\u007f\u0085\u200b\u200d\ufeff\ufffd\u00ad\u180e", "\u0663\u0664\u00b2\u00bd\u2167\u2460",
         "\u05e9\u05dc\u0639\u0631\u0939\u093f\u0928\u0e17", "\uff21\uff42\u337f"]
SPECIAL = ["<|end|>", "[MASK]", "[CLS]", "<unk>"]


def hard():
    out = []
    for _ in range(rng.randrange(0, 16)):
        r = rng.random()
        if r < .4: out.append(rng.choice(WORDS) + rng.choice(["", " ", "  "]))
        elif r < .48: out.append(rng.choice(SPECIAL))
        else: out.append("".join(rng.choice(rng.choice(POOLS)) for _ in range(rng.randrange(1, 5))))
    return "".join(out)


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
byte_level = lambda **k: P.ByteLevel(trim_offsets=False, **k)
CONFIGS = {  # name: normalizer, pre-tokenizer, model arguments
    "llama3": (None, P.Sequence([P.Split(Regex(LLAMA3), "isolated"), byte_level(add_prefix_space=False, use_regex=False)]), {"ignore_merges": True}),
    "qwen2": (N.NFC(), P.Sequence([P.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"), byte_level(add_prefix_space=False, use_regex=False)]), {}),
    "digits": (N.Sequence([N.NFD(), N.StripAccents(), N.Lowercase()]), P.Sequence([P.Digits(True), byte_level(add_prefix_space=True)]), {}),
    "words": (N.Sequence([N.NFKC(), N.Replace(Regex(r" {2,}"), " "), N.Strip()]), P.Sequence([P.Whitespace(), P.Punctuation("contiguous")]), {"unk_token": "<unk>", "fuse_unk": True}),
    "invert": (N.Prepend("_"), P.Split(Regex(r"\w+"), "removed", invert=True), {"unk_token": "<unk>"}),
    "fallback": (None, P.Metaspace("\u2581", "first"), {"unk_token": "<unk>", "byte_fallback": True}),
    "wordpiece": (N.BertNormalizer(lowercase=False), P.BertPreTokenizer(), None),
}


def train(name, text):
    norm, pre, args = CONFIGS[name]
    special = ["<unk>", AddedToken("<|end|>", special=True), AddedToken("[MASK]", lstrip=True, special=True), AddedToken("[CLS]", rstrip=True, special=True)]
    if args is None:
        t = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=20))
        trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, limit_alphabet=120, show_progress=False)
    else:
        t = Tokenizer(models.BPE(**args))
        bytes_ = "unk_token" not in args
        if args.get("byte_fallback"): special += ["<0x%02X>" % b for b in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=(700 if args.get("byte_fallback") else 460), special_tokens=special, limit_alphabet=300 if bytes_ else 100, show_progress=False, initial_alphabet=P.ByteLevel.alphabet() if bytes_ else [])
    if norm: t.normalizer = norm
    t.pre_tokenizer = pre
    t.train_from_iterator(text, trainer)
    t.add_tokens([AddedToken("hello", single_word=True, normalized=True), AddedToken("World", normalized=True), AddedToken("\u00e9", normalized=False)])
    t.post_processor = processors.TemplateProcessing(single="[CLS] $A <|end|>", special_tokens=[(s, t.token_to_id(s)) for s in ("[CLS]", "<|end|>")])
    return t


text = open(sys.argv[1], newline="").read().split("\n")[:1500]
for name in CONFIGS:
    strings = ["", " ", "hello World hello, helloWorld"] + [hard() for _ in range(60)]
    t = train(name, text + strings)
    t.save(name + ".json", pretty=False)
    with open(name + ".jsonl", "w") as f:
        for s in strings:
            e = t.encode(s, add_special_tokens=False)
            b = [len(s[:i].encode()) for i in range(len(s) + 1)]
            f.write(json.dumps({"text": s, "ids": e.ids, "at": [b[x] for o in e.offsets for x in o], "special": t.encode(s).ids}, separators=(",", ":")) + "\n")
