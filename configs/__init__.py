"""Hydra configuration of the harness, reached as pkg://subquad.configs."""
