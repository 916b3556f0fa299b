// All that stands between the emulated PC's reset and Linux: a ROM that takes the place of BIOS and bootloader, and the
// disk that it copies to memory, byte by byte what memory holds when the kernel starts. The kernel is entered by its
// 64-bit boot protocol (Documentation/x86/boot.rst). run.sh assembles this file beside the files `vmlinuz` and
// `initramfs` and defines:
//
//     SETUP_BYTES     how much of vmlinuz stands before the part that is entered
//     COMMAND_LINE    the kernel's

    .set MEMORY, 1 << 30 // bytes, as in bochsrc
    .set CODE32, 0x08 // the last two as the protocol wants them
    .set CODE64, 0x10
    .set DATA, 0x18

// ROM: 64 KiB that end at 4 GiB, seen below 1 MiB as well. Reset enters at 16 bytes from the end.
    .section .rom, "ax"
    .code16
rom:
    cli
    lgdtl %cs:(gdt_pointer - rom)
    mov %cr0, %eax
    or $1, %eax // protected mode
    mov %eax, %cr0
    ljmpl $CODE32, $protected_mode

    .code32
protected_mode:
    mov $DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss

    mov $memory, %edi
    xor %ebx, %ebx // sector
read_256_sectors: // of the first ATA disk, ports 0x1f0 .. 0x1f7
    mov $0x1f2, %edx
    xor %eax, %eax // 0: 256
    out %al, %dx
    inc %edx
    mov %ebx, %eax
    out %al, %dx
    inc %edx
    shr $8, %eax
    out %al, %dx
    inc %edx
    shr $8, %eax
    out %al, %dx
    inc %edx
    mov $0xe0, %al // sectors by number, first disk
    out %al, %dx
    inc %edx
    mov $0x20, %al // read
    out %al, %dx
    mov $256, %ebp
read_sector:
    mov $0x1f7, %edx
1:  in %dx, %al
    and $0x88, %al
    cmp $0x08, %al // not busy, has data
    jne 1b
    mov $0x1f0, %edx
    mov $128, %ecx
    rep insl
    dec %ebp
    jnz read_sector
    add $256, %ebx
    cmp $memory_end, %edi
    jb read_256_sectors

    mov $0x20, %eax // physical address extension
    mov %eax, %cr4
    mov $level4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx // EFER: long mode
    mov $0x100, %eax
    xor %edx, %edx
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax // paging
    mov %eax, %cr0
    ljmpl $CODE64, $long_mode

    .code64
long_mode:
    mov $boot_params, %esi
    mov $kernel + 0x200, %eax
    jmp *%rax

    .balign 16
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word . - gdt - 1
    .long gdt

// The first GiB where it is, as one page. Accessed and dirty already: a ROM takes no writes.
    .balign 4096
level4:
    .quad level3 + 0x63
    .balign 4096
level3:
    .quad 0xe3

    .org 0xfff0
    .code16
    jmp rom
    .org 0x10000

// The disk, which is memory from 1 MiB on. The kernel has to stand at 16 MiB.
    .set PARAMS, 0xefe000
    .section .memory, "a"
memory:
initramfs:
    .incbin "initramfs"
initramfs_end:

    .org PARAMS
boot_params: // mostly what vmlinuz brings along
    .org PARAMS + 0x1e8
    .byte 2 // entries of the memory map
    .org PARAMS + 0x1f1
    .incbin "vmlinuz", 0x1f1, 0x1f
    .byte 0xff // bootloader: unknown
    .incbin "vmlinuz", 0x211, 7
    .long initramfs, initramfs_end - initramfs
    .incbin "vmlinuz", 0x220, 8
    .long command_line
    .incbin "vmlinuz", 0x22c, 0x3c
    .org PARAMS + 0x2d0 // the memory map: start, bytes, 1 for usable
    .quad 0, 0xa0000
    .long 1
    .quad 0x100000, MEMORY - 0x100000
    .long 1

    .org PARAMS + 0x1000
command_line:
    .asciz COMMAND_LINE

    .org PARAMS + 0x2000
kernel:
    .incbin "vmlinuz", SETUP_BYTES
memory_end:
