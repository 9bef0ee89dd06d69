"""Imports at a price that can be paid: `probe check` starts every few seconds in every pod."""
