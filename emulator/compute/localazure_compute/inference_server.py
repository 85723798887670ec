"""Azure's own inference server, listening on the loopback interface only.

`azmlinfsrv` always listens on every interface (its DEFAULT_HOST is 0.0.0.0: in a container that is right). Here the
router in front checks the keys, so nobody else may reach the server. Everything else is the server's own: the same
arguments, the same entry point. https://learn.microsoft.com/azure/machine-learning/how-to-inference-server-http
"""

from __future__ import annotations

from azureml_inference_server_http import amlserver


def main() -> None:
    amlserver.DEFAULT_HOST = "127.0.0.1"
    amlserver.run()


if __name__ == "__main__":
    main()
