"""Adapters that run Corollary's algorithms in other training engines; each module needs its framework."""
