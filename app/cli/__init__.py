"""The `flask …` commands, thin."""
