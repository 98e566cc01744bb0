"""Configurations that `subquad run` finds by the entry point group subquad.configs."""
