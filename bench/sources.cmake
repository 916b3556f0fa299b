# lodrop-bench. The FMA-peak probe is built once in each instruction set's flags.
set(PEAK_OBJECTS "")
foreach(isa avx2 avx512 neon)
    if(TARGET lod_${isa})
        add_library(bench_peak_${isa} OBJECT bench/peak.c)
        target_compile_options(bench_peak_${isa} PRIVATE $<TARGET_PROPERTY:lod_${isa},COMPILE_OPTIONS>)
        target_link_libraries(bench_peak_${isa} PRIVATE lod_flags PkgConfig::SLEEF)
        list(APPEND PEAK_OBJECTS $<TARGET_OBJECTS:bench_peak_${isa}>)
    endif()
endforeach()
lod_program(lodrop-bench bench/main.c bench/bench_attention.c bench/bench_layer.c bench/bench_peak.c bench/bench_share.c bench/bench_tile.c
    bench/gbench.cpp bench/layer.c bench/memory.c bench/shapes.c ${PEAK_OBJECTS})
target_link_libraries(lodrop-bench PRIVATE PkgConfig::BENCHMARK)
configure_file(bench/shapes.txt shapes.txt COPYONLY)
if(LODROP_TESTS)
    add_test(NAME bench COMMAND ${PROJECT_SOURCE_DIR}/tests/structure/bench.sh $<TARGET_FILE:lodrop-bench>
        ${CMAKE_CROSSCOMPILING_EMULATOR})
endif()
