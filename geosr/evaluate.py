def evaluate(*a, **k):
    raise SystemExit("coming")
