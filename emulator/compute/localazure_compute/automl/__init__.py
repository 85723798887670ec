"""AutoML's search for tables, run as `python -m localazure_compute.automl <plan.json>` by
`localazure.executors.automl`.

tables     an MLTable as a pandas frame
features   what each column is, and the transformer that turns raw columns into numbers
learners   algorithms under Azure ML's names: first configurations, and FLAML's search from there
metrics    Azure ML's metrics of a prediction
search     the trials: forked, timed, compared
model      the best one as an MLflow model
tracking   trials as nested MLflow runs
"""
