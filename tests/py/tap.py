"""TAP for the tests of this folder: a line a check, the plan at the end."""

count = failed = 0


def ok(condition, what):
    global count, failed
    count += 1
    failed += not condition
    print(("ok" if condition else "not ok"), count, "-", what, flush=True)


def done():
    """Prints the plan; the exit status of the test."""
    print(f"1..{count}")
    return 1 if failed else 0
