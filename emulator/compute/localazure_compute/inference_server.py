"""Azure's own inference server, on a socket that localazure listens on.

`azmlinfsrv` always listens on every interface (its DEFAULT_HOST is 0.0.0.0: in a container that is right). Here the
router in front checks who asks, so nobody else may reach the server; and the socket stays when the server is started
again, so that nobody is refused meanwhile. The socket comes by its number in LOCALAZURE_LISTENER and is handed on as
systemd hands on sockets (https://docs.gunicorn.org/en/stable/deploy.html#systemd). Everything else is the server's own:
the same arguments, the same entry point. https://learn.microsoft.com/azure/machine-learning/how-to-inference-server-http

LOCALAZURE_PARENTS are the processes it may be a child of, by their ids: who started it, and who adopts it should that
one be killed. It goes on answering under the second one, and ends when nobody of localazure is left.
"""

from __future__ import annotations

import os
import threading

from localazure_compute import parents

# Where systemd's protocol has the first socket (sd_listen_fds(3)).
_FIRST = 3


def main() -> None:
    if given := os.environ.pop("LOCALAZURE_LISTENER", ""):
        # Before anything else is imported, so that nothing else has taken the number.
        if int(given) != _FIRST:
            os.dup2(int(given), _FIRST, inheritable=True)
        os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    if followed := os.environ.pop("LOCALAZURE_PARENTS", ""):
        ids = (int(each) for each in followed.split(","))
        threading.Thread(target=parents.follow, args=tuple(ids), daemon=True).start()
    hooks = "--config python:localazure_compute.inference_requests"
    os.environ["GUNICORN_CMD_ARGS"] = f"{os.environ.get('GUNICORN_CMD_ARGS', '')} {hooks}".strip()

    from azureml_inference_server_http import amlserver

    amlserver.DEFAULT_HOST = "127.0.0.1"
    amlserver.run()


if __name__ == "__main__":
    main()
