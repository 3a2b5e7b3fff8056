#!/usr/bin/env bash
# Two hosts on this machine: network namespaces joined by a link. Ranks that torchrun's variables place, and those of
# mpirun, compute together across it with the same greedy tokens as one; a link that goes down ends both ends within
# seconds, with one line. Skipped where namespaces are not permitted.
# usage: hosts_test.sh RANK_PROGRAM TESSERA MODEL [MPIEXEC]; without mpirun messages only
set -u
rank_program=$1 tessera=$2 model=$3 mpiexec=${4:-}
a=tsa$$ b=tsb$$ subnet=10.213.$((RANDOM % 200 + 1))
work=$(mktemp -d)

skip() { echo "skipped: $1"; exit 77; }
bad() { echo "wrong: $1"; tail -n 20 "$work"/*.out "$work"/*.err 2>/dev/null; exit 1; }
clean() {
  for space in $a $b; do
    ip netns pids $space 2>/dev/null | xargs -r kill -9 2>/dev/null
    ip netns del $space 2>/dev/null
  done
  rm -rf "$work"
}
trap clean EXIT

[ "$(id -u)" = 0 ] || skip "network namespaces need root"
command -v ip >/dev/null || skip "no ip (iproute2) here"
ip netns add $a 2>"$work/why" || skip "network namespaces are not permitted: $(cat "$work/why")"
ip netns add $b || bad "a second namespace"
ip link add v$a netns $a type veth peer name v$b netns $b 2>"$work/why" || skip "no virtual links: $(cat "$work/why")"
ip -n $a addr add $subnet.1/24 dev v$a && ip -n $b addr add $subnet.2/24 dev v$b || bad "addresses"
for space in $a $b; do ip -n $space link set lo up; done
up() { ip -n $a link set v$a up && ip -n $b link set v$b up; }
up || bad "the link"

# The rank of host A or B, as torchrun would start it.
rank() {  # rank NUMBER SPACE NAME COMMAND...
  local number=$1 space=$2 name=$3
  shift 3
  RANK=$number WORLD_SIZE=2 LOCAL_RANK=0 MASTER_ADDR=$subnet.1 MASTER_PORT=29511 ip netns exec $space "$@" \
    >"$work/$name.out" 2>"$work/$name.err" &
}
# Both must have ended within so many seconds; their statuses.
both_end() {  # both_end SECONDS PID PID
  local until=$((SECONDS + $1))
  while kill -0 $2 2>/dev/null || kill -0 $3 2>/dev/null; do
    [ $SECONDS -lt $until ] || return 1
    sleep 0.1
  done
  wait $2; first=$?
  wait $3; second=$?
}

# Messages across the link.
rank 0 $a one "$rank_program" 2 200; zero=$!
rank 1 $b two "$rank_program" 2 200; one=$!
both_end 30 $zero $one || bad "200 messages took 30 s"
[ "$first$second" = 00 ] || bad "statuses $first and $second"
echo "messages across hosts: right"

# The link goes down: nobody says goodbye.
rank 0 $a one "$rank_program" 2 0; zero=$!
rank 1 $b two "$rank_program" 2 0; one=$!
for _ in $(seq 100); do grep -q ready "$work/one.out" && break; sleep 0.1; done
ip -n $b link set v$b down
both_end 15 $zero $one || bad "ranks wait for a link that is down"
[ $first != 0 ] && [ $second != 0 ] || bad "statuses $first and $second after the link went down"
[ "$(cat "$work/one.err")" = "tessera: rank 1 of 2: silent for 5 s; it hangs, or its host is gone" ] || bad "rank 0's line"
[ "$(cat "$work/two.err")" = "tessera: rank 0 of 2: silent for 5 s; it hangs, or its host is gone" ] || bad "rank 1's line"
up
echo "a link that goes down: both ranks end with one line"

# Whole models under mpirun, a rank or two on each host.
[ -n "$mpiexec" ] && [ -x "$mpiexec" ] || { echo "no mpirun: models across hosts are left out"; exit 0; }
cat >"$work/agent" <<AGENT
#!/bin/sh
# What mpirun takes for ssh: the host's address, then a command.
case \$1 in $subnet.1) space=$a ;; *) space=$b ;; esac
name=\$space
shift
exec ip netns exec \$space unshare --uts sh -c "hostname \$name; \$*"
AGENT
chmod +x "$work/agent"
across() {  # across RANKS_A_HOST ARGUMENTS...
  local each=$1
  shift
  ip netns exec $a unshare --uts sh -c "hostname $a; exec \"\$@\"" sh "$mpiexec" --allow-run-as-root --oversubscribe \
    --mca plm_rsh_agent "$work/agent" --mca oob_tcp_if_include $subnet.0/24 --mca btl_tcp_if_include $subnet.0/24 \
    --mca btl tcp,self --mca orte_keep_fqdn_hostnames 1 \
    --host $subnet.1:$each,$subnet.2:$each -n $((2 * each)) -x MASTER_ADDR=$subnet.1 -x MASTER_PORT=29512 \
    "$tessera" "$@"
}
ask=(generate "$model" -p "Courage means" --device cpu --dtype float32 --threads 1 --temperature 0 --max-tokens 24)
"$tessera" "${ask[@]}" >"$work/alone.out" 2>"$work/alone.err" || bad "one rank alone"
for plan in "1 --tp 2" "1 --ep 2" "2 --tp 4" "1 --ep 2 --attention dp"; do
  set -- $plan
  timeout 120 bash -c "$(declare -f across); $(declare -p a b subnet work mpiexec tessera ask); across $1 \"\${ask[@]}\" ${*:2}" \
    >"$work/across.out" 2>"$work/across.err" || bad "$plan across hosts: status $?"
  cmp -s "$work/alone.out" "$work/across.out" || bad "$plan across hosts says something else"
  echo "$plan across hosts: the same tokens"
done

# A server loses its other host: it says which, and ends.
across 1 serve "$model" --device cpu --dtype float32 --threads 1 --tp 2 --port 8571 >"$work/serve.out" 2>"$work/serve.err" &
health() { ip netns exec $a curl -s -o /dev/null -m 5 -w '%{http_code}' http://127.0.0.1:8571/health; }
for _ in $(seq 300); do [ "$(health)" = 200 ] && break; sleep 0.2; done
[ "$(health)" = 200 ] || bad "the server did not start"
ip -n $b link set v$b down
start=$SECONDS
# mpirun waits longer for its own daemon on the other side; the ranks do not.
ranks() { for space in $a $b; do ip netns pids $space | xargs -r ps -o comm= -p; done | grep -c '^tessera$'; }
while [ "$(ranks)" -gt 0 ]; do
  [ $((SECONDS - start)) -lt 30 ] || bad "the server goes on without its other host"
  sleep 0.2
done
[ "$(grep -c "rank 1 of 2: silent for 10 s; it hangs, or its host is gone" "$work/serve.err")" = 1 ] || bad "the server's line"
echo "a server whose other host is gone: both ranks end after $((SECONDS - start)) s, with one line"
