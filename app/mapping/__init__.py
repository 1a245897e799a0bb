"""The mapping file: what it says (rules), how it is read and checked (file, rows), and values for persons."""

from app.mapping.file import MappingError, contents
from app.mapping.rules import CRM_STAGE_CHANGED, Rules, Stage, load, parse

__all__ = ["CRM_STAGE_CHANGED", "MappingError", "Rules", "Stage", "contents", "load", "parse"]
