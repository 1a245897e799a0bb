"""Ortto: people, custom activities and their definitions, and the webhooks that a user sets up there."""

from sandbox.ortto.vendor import Ortto

__all__ = ["Ortto"]
