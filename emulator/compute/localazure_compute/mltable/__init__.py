"""MLTable: a file that says where rows are and how they become a table.

https://learn.microsoft.com/azure/machine-learning/reference-yaml-mltable

definition       the file: its paths and its transformations, checked before anything is read
reading          files into rows: delimited text, Parquet, JSON lines, Delta Lake
transforming     the other transformations, in the order written
filters          the expressions of `filter`
partitions       columns out of paths
api              what jobs import as `mltable`

AutoML reads its data with it, and so do jobs that import `mltable`.
"""

from localazure_compute.mltable.definition import Definition
from localazure_compute.mltable.errors import MLTableError
from localazure_compute.mltable.transforming import frame_of

__all__ = ["Definition", "MLTableError", "frame_of"]
