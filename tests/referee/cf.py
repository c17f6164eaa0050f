"""compliance-checker, a referee for what a CF file says."""

from __future__ import annotations


def cf_findings(path, version="1.11"):
    """What compliance-checker holds against the file: every priority, warnings and recommendations too."""
    from compliance_checker.runner import CheckSuite

    CheckSuite.load_all_available_checkers()
    suite = CheckSuite()
    source = suite.load_dataset(str(path))
    groups, errors = suite.run_all(source, [f"cf:{version}"], skip_checks=[])[f"cf:{version}"]
    assert errors == {}
    return [message for group in groups for message in _messages(group)]


def _passed(value):
    return value[0] == value[1] if isinstance(value, tuple) else bool(value)


def _messages(result):
    own = list(result.msgs or []) if not _passed(result.value) else []
    return own + [m for child in result.children or [] for m in _messages(child)]
