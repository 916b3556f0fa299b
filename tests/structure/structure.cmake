# What the build and the tree look like, not what they compute.
set(STRUCTURE ${PROJECT_SOURCE_DIR}/tests/structure)
set(HEADER ${PROJECT_SOURCE_DIR}/include/lodrop.h)
add_test(NAME structure_symbols COMMAND ${STRUCTURE}/symbols.sh $<TARGET_FILE:lodrop> ${HEADER})
add_test(NAME structure_registers COMMAND ${STRUCTURE}/registers.sh ${PROJECT_BINARY_DIR} ${CMAKE_SYSTEM_PROCESSOR})
add_test(NAME structure_contraction COMMAND ${STRUCTURE}/contraction.sh ${PROJECT_BINARY_DIR})
add_test(NAME structure_flags COMMAND ${STRUCTURE}/flags.sh ${PROJECT_BINARY_DIR})
add_test(NAME structure_header COMMAND ${STRUCTURE}/header.sh ${HEADER} ${CMAKE_C_COMPILER} ${CMAKE_CXX_COMPILER})
add_test(NAME structure_bans COMMAND ${STRUCTURE}/bans.sh ${PROJECT_SOURCE_DIR})
add_test(NAME structure_mca COMMAND ${STRUCTURE}/mca.sh ${PROJECT_BINARY_DIR} ${CMAKE_SYSTEM_PROCESSOR})
add_test(NAME structure_hygiene COMMAND ${STRUCTURE}/hygiene.sh ${PROJECT_SOURCE_DIR})

add_executable(example_lowrank examples/lowrank.c)
target_link_libraries(example_lowrank PRIVATE lod_flags lodrop)
add_test(NAME example COMMAND ${STRUCTURE}/example.sh ${PROJECT_SOURCE_DIR} $<TARGET_FILE:example_lowrank>
    ${CMAKE_CROSSCOMPILING_EMULATOR})
