"""AutoML's search for tables, run as `python -m localazure_compute.automl <plan.json>` by
`localazure.executors.automl`.

tables       an MLTable as a pandas frame
features     what each column is, and the transformer that turns raw columns into numbers
guardrails   what was looked for in the data, and done about it
splits       which rows are fitted on and which are judged by
learners     algorithms under Azure ML's names: first configurations, and FLAML's search from there
metrics      Azure ML's metrics of a prediction
search       the trials: forked, timed, compared
ensembles    models made of models
job          what every task does besides: reading, reports, events, tracking
tabular      classification and regression
forecasting  time series
explain      which columns the best model goes by
model        the best one as an MLflow model
tracking     trials as nested MLflow runs
"""
