"""Takes its time, then leaves one file: what is in the folder tells how many runs got this far.

leave_a_file.py FOLDER SECONDS
"""

import sys
import time

from pyspark.sql import SparkSession

folder, seconds = sys.argv[1], float(sys.argv[2])
spark = SparkSession.builder.getOrCreate()
time.sleep(seconds)
spark.range(1).coalesce(1).write.mode("append").parquet(folder)
