"""What `subquad new` copies: variants that run, each renamed to what was asked."""
