"""A monitor's signals, computed as Azure ML's own components compute them.

Those are public: https://github.com/Azure/azureml-assets/tree/main/assets/model_monitoring/components. They run on
Spark; this is one process with pandas.

data         production and reference data into tables, cut to a window of time
drift        five metrics between two columns
quality      rates of missing, mistyped and never seen values
performance  predictions beside what came of them
results      a signal's metrics as the service writes them, and which of them break a threshold
"""
