"""Code that runs inside the compute environment: jobs, notebooks and scoring. It imports nothing of localazure."""
