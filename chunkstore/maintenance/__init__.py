"""Chores on whole stores: what keeps one tidy and moves its runs. One file per chore; this is their public face.

Every function takes an open store first, changes only what it says, and returns a report.
"""
