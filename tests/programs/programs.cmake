# The programs as a user runs them. The scripts read LODROP_TEST_DATA and what else they name from the environment.
if(TARGET lod_trainer AND NOT CMAKE_CROSSCOMPILING)
    foreach(name tuning same_bits bad_input bad_adapter crash evaluation failure_signs generation held_out
            methods comparison sweep nothing_silent)
        add_test(NAME programs_${name} COMMAND ${PROJECT_SOURCE_DIR}/tests/programs/${name}.py)
        set_tests_properties(programs_${name} PROPERTIES ENVIRONMENT LODROP_BUILD=${PROJECT_BINARY_DIR})
    endforeach()
endif()

# Throughput on hosts that give less than they show: needs the machine for itself.
if(NOT CMAKE_CROSSCOMPILING)
    find_package(OpenMP COMPONENTS C)
    add_executable(hosts_load ${PROJECT_SOURCE_DIR}/tests/programs/hosts_load.c)
    target_link_libraries(hosts_load PRIVATE lod_flags lodrop_static $<$<BOOL:${OpenMP_C_FOUND}>:OpenMP::OpenMP_C>)
    add_test(NAME programs_hosts COMMAND ${PROJECT_SOURCE_DIR}/tests/programs/hosts.py)
    set_tests_properties(programs_hosts PROPERTIES ENVIRONMENT LODROP_BUILD=${PROJECT_BINARY_DIR} RUN_SERIAL ON)
endif()
