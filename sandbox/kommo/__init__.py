"""A fake Kommo: API v4, webhooks, and levers to act as the people who work in it."""

from sandbox.kommo.server import Kommo

__all__ = ["Kommo"]
