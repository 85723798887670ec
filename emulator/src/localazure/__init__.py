"""localazure: a private Azure on one machine. The same wire protocols, real engines behind them."""

__version__ = "0.1.0"
