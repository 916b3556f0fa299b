# Cross build for aarch64 Linux, run by qemu-user. LODROP_SYSROOT is a root with the arm64 packages of the C library and
# of the libraries that are linked; empty: they are installed beside this machine's own.
set(LODROP_SYSROOT "" CACHE PATH "root of the arm64 libraries")
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES LODROP_SYSROOT)
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L ${LODROP_SYSROOT}/)
set(ENV{PKG_CONFIG_LIBDIR} ${LODROP_SYSROOT}/usr/lib/aarch64-linux-gnu/pkgconfig)
if(LODROP_SYSROOT)
    set(CMAKE_SYSROOT ${LODROP_SYSROOT})
    set(ENV{PKG_CONFIG_SYSROOT_DIR} ${LODROP_SYSROOT})
endif()
