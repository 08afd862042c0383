#!/bin/busybox sh
# Init of the emulated machine: mounts file systems, loads modules, runs each test binary in turn, and
# powers off. The kernel's messages go to the first serial port; the output of this script and of the
# tests goes to the second one. Lines with a byte 1 are for `cargo xtask vm` (vm/machine.rs).
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/vm/bin
# As .cargo/run-as-root does.
export REUSEPORT_BPFFS=/sys/fs/bpf
export HOME=/root USER=root TERM=dumb LANG=C.UTF-8
bb=/bin/busybox
results=/dev/ttyS1

$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev
$bb stty -F $results raw -echo || $bb poweroff -f # no way to report
exec >$results 2>&1 </dev/null

# Not the shell's builtin printf: the shell handles SIGCHLD without SA_RESTART, so a child that ends at
# that moment can make the write fail (n_tty_write in drivers/tty/n_tty.c), and the line is lost.
say() { $bb printf '\001%s\n' "$*"; }
off() {
    exec >/dev/console 2>&1 # closing a serial port waits until all is sent
    $bb poweroff -f || $bb reboot -f
}
fail() {
    say fail "$*"
    off
}

$bb mkdir -p /dev/pts /dev/shm /vm/bin
$bb mount -t devpts devpts /dev/pts
$bb mount -t tmpfs shm /dev/shm
$bb mount -t bpf bpf /sys/fs/bpf || fail "the kernel has no bpffs (CONFIG_BPF_SYSCALL)"
$bb mount -t cgroup2 cgroup2 /sys/fs/cgroup || fail "the kernel has no cgroup2 (CONFIG_CGROUPS)"
[ -e /sys/kernel/btf/vmlinux ] || fail "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)"
$bb ln -s /proc/self/fd /dev/fd
$bb chmod 1777 /tmp # not a mount, which would hide a workspace below it
# Fallbacks: last in PATH, after all real programs.
$bb --install -s /vm/bin
$bb hostname vm
$bb ip link set lo up || fail "cannot bring loopback up"
for module in /vm/modules/*.ko; do
    [ ! -e "$module" ] || $bb insmod "$module" || fail "cannot load ${module##*/}"
done
ulimit -n 20000

say boot "$($bb uname -r)"
. /vm/environment
limit=$($bb cat /vm/limit)
set --
while IFS= read -r argument; do
    set -- "$@" "$argument"
done </vm/arguments
index=0
# Each line: the package's directory, a tab, the binary.
while IFS='	' read -r directory binary; do
    say start $index
    (
        cd "$directory" || exit 126
        export CARGO_MANIFEST_DIR="$directory"
        exec $bb timeout -s KILL "$limit" "$binary" "$@"
    ) </dev/null
    say end $index $?
    # Processes that a failed test left running must not disturb the next binary.
    $bb kill -KILL -1 2>/dev/null
    index=$((index + 1))
done </vm/binaries
say done
off
