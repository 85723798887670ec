"""Forecasting: one or many time series, rolling-origin cross-validation, models of the past and of features.

series          a frame as series without gaps
forecaster      periods, features, and the model that is saved
series_models   models that know a series' past alone
job             the search over them
"""

from localazure_compute.automl.forecasting.job import ForecastingJob

__all__ = ["ForecastingJob"]
