"""Units and heads that act as one."""
