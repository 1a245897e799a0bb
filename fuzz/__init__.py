"""Fuzzing: bytes that nobody thought of, for everything that strangers and users write.

`python -m fuzz --help` says how to run it. `targets` is the table of what is fuzzed, each target a module that says
what must hold; `engines` runs them, with atheris (guided by coverage) or hypothesis; `corpus/` is what is kept.
"""
