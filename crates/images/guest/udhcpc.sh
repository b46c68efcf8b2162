#!/bin/busybox sh
# Applies what a DHCP server has answered. RVISOR_ROOT is the guest's root directory.
case $1 in
bound | renew)
    ifconfig "$interface" "$ip" netmask "${subnet:-255.255.255.0}" up
    for gateway in $router; do
        route add default gw "$gateway" dev "$interface"
    done
    # A link to a file that a service of the guest keeps is that service's business.
    [ -L "$RVISOR_ROOT/etc/resolv.conf" ] || {
        [ -z "$domain" ] || echo "search $domain"
        for server in $dns; do
            echo "nameserver $server"
        done
    } >"$RVISOR_ROOT/etc/resolv.conf"
    ;;
esac
