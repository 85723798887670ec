"""Experiment tracking: MLflow's server, the workspace's tracking address in front of it, and the runs localazure
creates there.
"""
