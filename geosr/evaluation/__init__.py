"""Honest evaluation by Wald's protocol: degrade a truth, refine it by every method, score, and say who wins.

:func:`evaluate.evaluate` reads top to bottom: cases, degradation, baselines and networks,
metrics, spectrum, gains; ``results`` holds what comes of it, ``tables``, ``panels`` and ``figures`` show it.
"""
