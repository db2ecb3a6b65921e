#!/bin/sh
# HAProxy as Ray starts it, with its statistics and metrics on loopback: Ray's configuration offers them to the network.
set -eu
previous= config=
for argument; do
    if [ "$previous" = -f ]; then config=$argument; fi
    previous=$argument
done
ports="$RAY_SERVE_HAPROXY_STATS_PORT|$RAY_SERVE_HAPROXY_METRICS_PORT"
sed -E "s/^( *bind )\*?:($ports)\$/\1127.0.0.1:\2/" "$config" >"$config.loopback"
mv "$config.loopback" "$config"
exec "$VISIONGRAPH_HAPROXY" "$@"
