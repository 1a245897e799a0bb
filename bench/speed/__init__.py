"""How fast the service is, side by side with what one would write instead: `python -m bench.speed`."""
