"""A small town of fake vendors: Kommo, Encharge and Ortto as real HTTP servers with state.

It is written from the vendors' documentation, never from the service's own clients: it imports nothing
of `app/` and is imported by nothing of it. The demo, the tests and the benchmarks stand on it.
"""
