"""Engines other than the reference trainer for the same `Algorithm` objects; each module needs its framework."""
