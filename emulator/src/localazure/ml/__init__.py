"""Azure Machine Learning: the ARM provider Microsoft.MachineLearningServices, run history, discovery and the dataplane look-ups."""
