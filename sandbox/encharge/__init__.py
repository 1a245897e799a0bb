"""Encharge: its REST host, its ingest host, and the three unrelated ways in which it calls out."""

from sandbox.encharge.cloud import Encharge
from sandbox.encharge.ingest import Ingest

__all__ = ["Encharge", "Ingest"]
