"""Lines and JSON records of files with the place of each, and files that appear whole. What is wrong with a line is a
ValueError to whoever looks at it, and a BadInput, with file and line, to the caller."""
import contextlib, json, os, sys

MOST_BYTES = 64 << 20


class BadInput(Exception):
    """Data that cannot be used: file, line and why."""


class CutOff(Exception):
    """The program that wrote the records died before its last line."""


def parse(line):
    """The object of one line of JSON. No key twice, no NaN; half a surrogate pair is no text."""
    def take(pairs):
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError("a key stands twice")
        return made

    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    try:
        made = json.loads(line, object_pairs_hook=take, parse_constant=refuse)
        json.dumps(made, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("half a surrogate pair") from None
    except json.JSONDecodeError as why:
        raise ValueError(f"not JSON: {why.msg} at byte {why.pos}") from None
    if not isinstance(made, dict):
        raise ValueError("not a JSON object")
    return made


def shown(path):
    return "standard input" if path == "-" else path


def rows_of_end(path, number, line):
    try:
        return parse(line)["_vp"]["rows"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadInput(f"{shown(path)}:{number}: not a closing _vp line") from None


class Reader:
    """Reads files; with skip_bad lines that cannot be used are counted and passed over."""

    def __init__(self, skip_bad=False):
        self.skip_bad, self.skipped = skip_bad, 0

    def bad(self, path, number, why):
        if not self.skip_bad:
            raise BadInput(f"{shown(path)}:{number}: {why}")
        self.skipped += 1

    def lines(self, path):
        """(number, text) of every line, from 1."""
        with open(path, "rb") if path != "-" else contextlib.nullcontext(sys.stdin.buffer) as f:
            number = 0
            while line := f.readline(MOST_BYTES):
                number += 1
                if len(line) == MOST_BYTES:
                    raise BadInput(f"{shown(path)}:{number}: a line longer than {MOST_BYTES} bytes")
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    self.bad(path, number, "not UTF-8")

    def records(self, paths, take):
        """(file, number, what take(line) makes of it) of every line that is not blank."""
        for path in paths:
            rows = expected = None  # of the records between the two control lines of vecpipe's own programs
            for number, line in self.lines(path):
                if line.startswith('{"_vp":'):
                    rows, expected = (0, -1) if rows is None else (rows, rows_of_end(path, number, line))
                elif line.strip():
                    rows = rows if rows is None else rows + 1
                    try:
                        taken = take(line)
                    except ValueError as why:
                        self.bad(path, number, why)
                    except RecursionError:
                        self.bad(path, number, "too deep")
                    else:
                        yield path, number, taken
            if rows != expected:
                raise CutOff(f"{shown(path)}: the closing _vp line is missing, or counts other rows: what wrote it died")


@contextlib.contextmanager
def publish(path):
    """A file that is written aside and renamed when all went well."""
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.rename(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def dump(f, value):
    f.write(json.dumps(value, ensure_ascii=False) + "\n")
