"""Online forecasting under concept drift: every installed method, always beside the naive ones."""

from corollary.benchmarks.online_forecasting.suite import SUITE, OnlineForecasting

__all__ = ["SUITE", "OnlineForecasting"]
