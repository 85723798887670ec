"""A TDS 7.4 and 8.0 server: what a Synapse SQL pool speaks, in front of any ``localazure.sql`` session.

packets, login, types, tokens, rows, requests   pure: bytes <-> dataclasses, no sockets
channel                                         bytes on the socket, TLS, framing
answers, procedures, bulk                       a session's results -> token streams
connection, server                              the state machine of one client; the listener

Specification: https://learn.microsoft.com/en-us/openspecs/windows_protocols/ms-tds/ ([MS-TDS] below).
"""
