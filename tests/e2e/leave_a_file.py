"""Waits until it may, then leaves one file: what is in the folder tells how many runs got this far.

leave_a_file.py FOLDER GO
"""

import sys
import time

from pyspark.sql import SparkSession
from pyspark.sql.utils import AnalysisException

folder, go = sys.argv[1:]
spark = SparkSession.builder.getOrCreate()
while True:
    try:
        spark.read.text(go).count()
        break
    except AnalysisException:
        time.sleep(0.5)
spark.range(1).coalesce(1).write.mode("append").parquet(folder)
