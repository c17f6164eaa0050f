"""``python -m tests.faults``: see the docstring of :mod:`tests.faults.run`."""

from .run import main

main()
