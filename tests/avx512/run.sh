#!/bin/bash
# Runs a shell command on a PC with AVX-512 that Bochs emulates: Debian's kernel, this machine's libraries, and those
# programs of a build folder that the command names. Its output and exit status are the command's; 125 if the PC did
# not get to the command's end. Slow: 10 to 20 s until the command starts, then some 300 times slower than a CPU.
#
#     tests/avx512/run.sh [-t SECONDS] BUILD COMMAND...
#     tests/avx512/run.sh build lodrop-info
#     tests/avx512/run.sh -t 300 build check --isa avx512 --filter attention
#
# -t: when to give up, 600 s unless told. Needs Debian's packages bochs, bochs-term, cpio and a C compiler; downloads
# the kernel's package once, to build-ci/avx512. Installs nothing, and needs not be root.
set -u -o pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=$(realpath -m "$here/../../build-ci/avx512")

die() { # MESSAGE
    echo "tests/avx512/run.sh: $1" >&2
    exit 125
}

# The boot protocol's field setup_sects says where the part that is entered begins.
setup_bytes() { # VMLINUZ
    echo $((($(od -An -tu1 -j 0x1f1 -N 1 "$1") + 1) * 512))
}

# What Bochs cannot do (its XSAVES and XSAVEC), what this PC lacks, and what only takes time.
command_line() {
    echo console=ttyS0,115200 quiet panic=-1 reboot=t nokaslr clearcpuid=xsaves,xsavec acpi=off pci=off noapic \
        nolapic tsc=unstable idle=halt mitigations=off initcall_blacklist="$(slow_initcalls | paste -sd ,)"
}

slow_initcalls() {
    printf '%s\n' crypto_algapi_init load_system_certificate_list trace_eval_init init_kprobe_trace
}

fetch_kernel() { # to $cache/vmlinuz
    local package
    [ ! -e "$cache/vmlinuz" ] || return 0
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" {print $2; exit}')
    [ -n "$package" ] || die "apt knows no linux-image-cloud-amd64: apt-get update?"
    (cd "$run" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$package") || die "cannot download $package"
    dpkg -x "$run"/linux-image-*.deb "$run/kernel" || die "cannot unpack $package"
    mv "$run"/kernel/boot/vmlinuz-* "$cache/vmlinuz" || die "no kernel in $package"
}

copy_program() { # FILE: with its libraries, which keep their places
    local library
    cp -L "$1" "$run/tree/bin/" || die "cannot copy $1"
    for library in $(ldd "$1" 2>/dev/null | grep -o '/[^ ]*'); do
        mkdir -p "$run/tree${library%/*}"
        cp -Lu "$library" "$run/tree$library" || die "cannot copy $library"
    done
}

make_initramfs() { # BUILD COMMAND
    local program
    mkdir -p "$run"/tree/{bin,dev,proc,sys,tmp}
    cp "$here/init" "$run/tree/init" && chmod +x "$run/tree/init" && echo "$2" >"$run/tree/command" || exit 125
    for program in sh mount sleep; do
        copy_program "$(command -v $program)"
    done
    for program in "$1"/check "$1"/lodrop-*; do
        grep -qw -- "${program##*/}" "$run/tree/command" && copy_program "$program"
    done
    (cd "$run/tree" && find . | cpio --quiet -o -H newc) >"$run/initramfs" || die "cannot make the initramfs"
    [ "$(stat -c %s "$run/initramfs")" -lt $((0xefe000)) ] || die "the programs take more room than boot.S has"
}

# The disk's size: whole cylinders, and whole reads of the ROM.
make_machine() {
    ln -s "$cache/vmlinuz" "$run/vmlinuz"
    cc -c -o "$run/boot.o" -Wa,-I"$run" -DSETUP_BYTES="$(setup_bytes "$cache/vmlinuz")" \
        -DCOMMAND_LINE="\"$(command_line)\"" "$here/boot.S" &&
        ld -e 0 --section-start=.rom=0xf0000 --section-start=.memory=0x100000 -o "$run/boot" "$run/boot.o" &&
        objcopy -O binary -j .rom "$run/boot" "$run/rom" &&
        objcopy -O binary -j .memory "$run/boot" "$run/disk" &&
        truncate -s %$((128 * 63 * 1024)) "$run/disk" || die "cannot make ROM and disk"
}

# Reboot is a triple fault, which ends the emulator; so does a panic. "c" is for the emulator's debugger.
emulate() { # SECONDS; the serial port goes to descriptor 3
    (cd "$run" && echo c | TERM=linux timeout --foreground -s KILL "$1" bochs-bin -q -f "$here/bochsrc") \
        >"$run/screen" 2>&1
}

show_command() { # keeps everything, shows what the command said
    tee "$run/serial" | sed -nu 's/\r$//; /^guest: begin$/,/guest: status /{/^guest: /d; s/guest: status .*//; p}'
}

explain() { # STATUS of the emulator
    echo "--- the serial port's last lines" >&2
    tail -n 30 "$run/serial" >&2
    [ "$1" -ne 137 ] || die "gave up after $limit s"
    echo "--- the emulator's last lines" >&2
    grep -ahE '>>PANIC<<|display library|cannot|error' "$run/log" "$run/screen" | tail -n 10 >&2
    die "the PC stopped before the command ended"
}

limit=600
if [ "${1:-}" = -t ]; then
    limit=${2:-}
    shift 2
fi
[ $# -ge 2 ] && [ "$limit" -gt 0 ] 2>/dev/null || die "usage: tests/avx512/run.sh [-t SECONDS] BUILD COMMAND..."
[ "$(uname -m)" = x86_64 ] || die "needs an x86-64 machine"
type bochs-bin cpio cc ld objcopy >/dev/null || die "needs the packages bochs, bochs-term, cpio, gcc"
mkdir -p "$cache" && run=$(mktemp -d "$cache/run.XXXXXX") || die "cannot make a folder in $cache"
trap 'rm -rf "$run"' EXIT

build=$1
shift
fetch_kernel
make_initramfs "$build" "$*"
make_machine
emulate "$limit" 3> >(show_command)
ended=$?
wait $!
status=$(sed -nE 's/.*guest: status ([0-9]+)\r?$/\1/p' "$run/serial" | tail -n 1)
[ -n "$status" ] || explain $ended
exit "$status"
