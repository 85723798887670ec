"""What makes a job run: environments, inputs and outputs, and one runner a job type."""
