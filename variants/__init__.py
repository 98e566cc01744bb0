"""Attention variants: one flat file each, discovered by name. Use subquad.discover, not imports."""
