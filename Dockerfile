# azflow's Airflow image: every component of docker-compose.yaml runs from it.
FROM python:3.11-slim-bookworm

# libltdl7: the SQL driver's ODBC provider. tini: reaps what tasks leave behind.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libltdl7 tini \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --uid 50000 --create-home --home-dir /opt/airflow airflow
COPY requirements.txt requirements-production.txt /opt/azflow/
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -r /opt/azflow/requirements.txt -r /opt/azflow/requirements-production.txt
ENV PATH=/opt/venv/bin:$PATH \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/azflow/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/azflow/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    PYTHONPATH=/opt/azflow/plugins \
    DO_NOT_TRACK=1 \
    GX_ANALYTICS_ENABLED=false \
    MLFLOW_DISABLE_TELEMETRY=true

COPY dags /opt/azflow/dags
COPY plugins /opt/azflow/plugins
COPY include /opt/azflow/include
COPY containers /opt/azflow/containers
# Where volumes are mounted: an empty one takes its owner from here.
RUN mkdir /opt/airflow/logs /var/azure && chown airflow /opt/airflow/logs /var/azure
WORKDIR /opt/azflow
USER airflow
ENTRYPOINT ["tini", "--", "airflow"]
