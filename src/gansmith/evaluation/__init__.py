"""Scores: a measure, the real images it compares with, and the receipt that says how a number was measured."""
