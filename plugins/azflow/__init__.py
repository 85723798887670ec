"""azflow: retrains, ships and watches models whose data lives in Azure Synapse and whose models live in Azure ML."""
